"""The layouts Triptych reads: one file each, and the order in which they are tried."""
