# make demo: install what is missing, build, train on real photographs, show the table.
.PHONY: demo
demo: deps-demo
	@$(MAKE) --no-print-directory tools
	@PATH="$(abspath $(B)/bin):$$PATH" pipelines/demo.sh

# make demo-coco: likewise, a detector on scenes that are composed.
.PHONY: demo-coco
demo-coco: deps-demo
	@$(MAKE) --no-print-directory tools
	@PATH="$(abspath $(B)/bin):$$PATH" pipelines/demo-coco.sh
