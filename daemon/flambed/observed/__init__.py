"""What can be seen of a cluster: facts, the world they fold into, and where facts come from."""
