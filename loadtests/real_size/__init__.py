"""A model of real size, random weights, served on this machine: memory, load time, both modes."""
