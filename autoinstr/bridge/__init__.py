"""Other tracing APIs on this engine: one file per API, each a ``patch(patcher, tracing)`` as an instrument is."""
