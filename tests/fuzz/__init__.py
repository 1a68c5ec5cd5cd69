"""Generated requests, and the parsers that ours must agree with."""
