"""Does actions: one function per kind of action, in order, through ``kube``.

What the server answers goes to ``observe``. The rate of Events is limited here.
"""
