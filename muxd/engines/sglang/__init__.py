"""SGLang: what its servers are told, asked and called, and what its log says when one ends."""
