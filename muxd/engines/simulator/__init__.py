"""The simulator as an engine: how muxd starts its servers; they answer and end as SGLang's do."""
