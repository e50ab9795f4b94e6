"""The shared study: suggestions that can be replayed, storages, leases, an exact budget."""
