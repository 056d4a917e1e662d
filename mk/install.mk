# make install / uninstall: tools, library and its MPI plug-ins, headers, pkg-config file, manual, shell completion.

bindir     := $(PREFIX)/bin
libdir     := $(PREFIX)/lib
includedir := $(PREFIX)/include/mabn
mandir     := $(PREFIX)/share/man
compdir    := $(PREFIX)/share/bash-completion/completions
pipedir    := $(PREFIX)/share/mabn/pipelines
HEADERS    := $(sort $(filter-out lib/cli/%,$(wildcard lib/*/*.h)))
PIPELINES  := $(sort $(filter-out pipelines/install-deps.sh,$(wildcard pipelines/*.sh)))
VERSION    := $(shell sed -n 's/.*MABN_VERSION "\(.*\)"/\1/p' lib/cli/cli.h)

.PHONY: install uninstall
install: all
	$(say) INST $(DESTDIR)$(PREFIX)
	$(Q)install -d $(DESTDIR)$(bindir) $(DESTDIR)$(libdir)/pkgconfig $(DESTDIR)$(compdir) $(DESTDIR)$(pipedir)
	$(Q)install -m 755 $(BIN) $(DESTDIR)$(bindir)
	$(Q)install -m 644 $(LIB) $(DESTDIR)$(libdir)
	$(Q)$(if $(strip $(PLUGINS)),install -D -m 755 -t $(DESTDIR)$(libdir)/mabn $(PLUGINS),true)
	$(Q)for h in $(HEADERS:lib/%=%); do install -D -m 644 lib/$$h $(DESTDIR)$(includedir)/$$h; done
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@REQUIRES@|$(PKGS)|; s|@LIBS@|$(filter-out $(PKG_LIBS),$(LDLIBS))|' \
	    mk/mabn.pc.in > $(DESTDIR)$(libdir)/pkgconfig/mabn.pc
	$(Q)for m in $(MAN); do install -D -m 644 $$m $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/}; done
	$(Q)install -m 644 mk/completion.bash $(DESTDIR)$(compdir)/mabn
	$(Q)for t in $(TOOLS); do ln -sf mabn $(DESTDIR)$(compdir)/$$t; done
	$(Q)$(if $(PIPELINES),install -m 755 $(PIPELINES) $(DESTDIR)$(pipedir),true)

uninstall:
	$(say) RM $(DESTDIR)$(PREFIX)
	$(Q)rm -f $(TOOLS:%=$(DESTDIR)$(bindir)/%) $(DESTDIR)$(libdir)/libmabn.a $(DESTDIR)$(libdir)/pkgconfig/mabn.pc
	$(Q)rm -rf $(DESTDIR)$(includedir) $(DESTDIR)$(PREFIX)/share/mabn $(DESTDIR)$(libdir)/mabn
	$(Q)for m in $(MAN); do rm -f $(DESTDIR)$(mandir)/man$${m##*.}/$${m##*/}; done
	$(Q)rm -f $(DESTDIR)$(compdir)/mabn $(TOOLS:%=$(DESTDIR)$(compdir)/%)
