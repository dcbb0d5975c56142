"""What the plugin costs SGLang, beside its own dicts and collectives: python -m bench.sglang, where SGLang is."""
