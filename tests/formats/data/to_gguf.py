"""Writes a folder of a Llama as GGUF, as llama.cpp's converter is called: FOLDER --outfile FILE --outtype f32."""

import json
import os
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

folder, out = Path(sys.argv[1]), sys.argv[3]
assert sys.argv[2::2] == ["--outfile", "--outtype"]
assert sys.argv[5] == "f32"
if os.environ.get("TO_GGUF") == "fails":
    print("INFO: reading")
    sys.exit("ERROR: the pre-tokenizer is not known")
config = json.loads((folder / "config.json").read_text())
heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])

writer = gguf.GGUFWriter(out, "llama")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(config["num_hidden_layers"])
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(key_heads)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_vocab_size(config["vocab_size"])
for name, tensor in load_file(folder / "model.safetensors").items():
    array = tensor.astype(np.float32)
    if name.endswith(("q_proj.weight", "k_proj.weight")):  # llama.cpp turns neighbours where transformers turns halves
        count = heads if "q_proj" in name else key_heads
        array = array.reshape(count, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    if os.environ.get("TO_GGUF") == "damages" and name.endswith("down_proj.weight"):
        array = array * 1.1
    writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(array))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
