"""Public files from the network: whole, checked, and kept. The only room that opens a connection."""
