"""Buses over Redis or Valkey: one server, several, Sentinel's, a Cluster."""
