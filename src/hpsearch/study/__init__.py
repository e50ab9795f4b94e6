"""The study that many workers share: its storage, budget, suggestions, leases and trial ends."""
