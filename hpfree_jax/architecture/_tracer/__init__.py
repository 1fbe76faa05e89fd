"""Reading the graph of layers from a jaxpr."""
