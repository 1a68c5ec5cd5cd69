"""Groups and channels: the layer, its ports, its codec, and the backends."""
