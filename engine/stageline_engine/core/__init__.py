"""Values that everything else is made of: no tensors, no sockets, no clock."""
