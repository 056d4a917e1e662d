# make lint: what machines can see. Not part of check: newer versions find new things.
.PHONY: lint
lint:
	shellcheck -S warning .ci/run tests/run-all tests/race tests/check-headers tests/check-format tests/gpu/run tests/distros/run tests/distros/installed tests/cli/helpers.bash $$(git ls-files '*.sh')
	mandoc -Tlint -W warning man/*.[1-8]
	cppcheck -q --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 -Ilib \
	    --suppress=missingIncludeSystem lib cmd
