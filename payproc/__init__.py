"""payproc: a deterministic batch processor for payment events. The README is the place to start."""
