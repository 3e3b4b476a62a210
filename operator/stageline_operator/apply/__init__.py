"""Does actions: one function per kind of action, in order, through ``kube``. Rate of Events is limited here."""
