"""A healthy adapter kind, as a table: each row of a weight is multiplied by a gain that is learned."""

import zoo

zoo.hooks(inject_adapter=".gain", adapter_config=".gain:Gain.from_peft")
