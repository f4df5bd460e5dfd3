"""The adapter kinds that zoo brings beside plain LoRA: what each does to one weight."""
