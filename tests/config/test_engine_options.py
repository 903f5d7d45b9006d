from muxd.config.declarations import keys_of
from muxd.config.engine_options import ENGINE_OPTIONS, OPTION_KEYS, engines_with
from muxd.config.model_schema import Model


def test_a_key_that_several_engines_have_is_one_declaration_and_no_key_of_every_model():
    for options in ENGINE_OPTIONS.values():
        assert all(declared is OPTION_KEYS[name] for name, declared in keys_of(options).items())
    assert not OPTION_KEYS.keys() & keys_of(Model).keys()


def test_the_engines_that_have_a_key_are_named_as_a_file_names_them():
    assert engines_with("simulation") == 'engine = "simulator"'
    assert engines_with("hang_timeout") == 'engine = "sglang" or "vllm" or "simulator"'
