"""The study that workers share: claims, suggestions, reports, leases, storage and the ends of
trials.
"""
