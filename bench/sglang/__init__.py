"""What the plugin costs SGLang, beside its own dicts and collectives: python -m bench.sglang, with SGLang installed."""
