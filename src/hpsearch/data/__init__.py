"""Read, check, split and fingerprint data sets, and measure their statistics."""
