"""Small encoders and decoders with random weights, one function for each architecture: `ARCHITECTURES[name](attention)`.

Each returns (module, inputs, outputs): `inputs` maps a graph input to its kind (`example` in export.py knows them), `outputs` names
the graph outputs. A new architecture is one more function. This file has the registry and the first models; text.py, senses.py (vision
and speech) and written.py (modules of our own) have the others.
"""

import torch
import transformers as hf

SIZES = dict(vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
IDS = {"input_ids": "ids", "attention_mask": "mask"}
TYPED = {**IDS, "token_type_ids": "types"}
STATES = ["last_hidden_state"]
POOLED = ["last_hidden_state", "pooler_output"]

ARCHITECTURES = {}


def architecture(function):
    ARCHITECTURES[function.__name__] = function
    return function


def vary(module):
    """Gives every weight another value, biases and norms too, and attention something to choose: as in a trained model."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 1.2 / weight[0].numel() ** 0.5, generator=generator)
            else:
                weight.normal_(1 if name.endswith("weight") else 0, 0.1, generator=generator)
    return module


def varied(function):
    """An architecture whose weights are varied."""

    def build(attention):
        module, inputs, outputs = function(attention)
        return vary(module), inputs, outputs

    build.__name__ = function.__name__
    return architecture(build)


def bert_config(**more):
    return hf.BertConfig(**SIZES, max_position_embeddings=256, **more)


@architecture
def bert(attention):
    return hf.BertModel(bert_config(attn_implementation=attention)), TYPED, POOLED


@architecture
def bert_hs(attention):
    config = bert_config(attn_implementation=attention, output_hidden_states=True)
    return hf.BertModel(config), TYPED, [*STATES, "hs0", "hs1", "hs2"]


@architecture
def bert_crossenc(attention):
    config = bert_config(attn_implementation=attention, num_labels=1)
    return hf.BertForSequenceClassification(config), TYPED, ["logits"]


@architecture
def bert_qa(attention):
    return hf.BertForQuestionAnswering(bert_config(attn_implementation=attention)), TYPED, ["start_logits", "end_logits"]


@architecture
def roberta(attention):
    config = hf.RobertaConfig(**SIZES, max_position_embeddings=258, type_vocab_size=1, attn_implementation=attention)
    return hf.RobertaModel(config), IDS, POOLED


@architecture
def distilbert(attention):
    config = hf.DistilBertConfig(vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=256,
                                 attn_implementation=attention)
    return hf.DistilBertModel(config), IDS, STATES


@architecture
def albert(attention):
    config = hf.AlbertConfig(**{**SIZES, "num_hidden_layers": 3}, embedding_size=16, max_position_embeddings=256,
                             attn_implementation=attention)
    return hf.AlbertModel(config), TYPED, POOLED


@architecture
def mpnet(attention):
    config = hf.MPNetConfig(**SIZES, max_position_embeddings=258)
    return hf.MPNetModel(config), IDS, STATES


@architecture
def deberta_v2(attention):
    config = hf.DebertaV2Config(**SIZES, max_position_embeddings=256, type_vocab_size=0, relative_attention=True,
                                pos_att_type=["p2c", "c2p"], position_buckets=32, norm_rel_ebd="layer_norm",
                                share_att_key=True, conv_kernel_size=3, position_biased_input=False)
    return hf.DebertaV2Model(config), IDS, STATES


@architecture
def deberta_v3(attention):
    config = hf.DebertaV2Config(**SIZES, max_position_embeddings=256, type_vocab_size=0, relative_attention=True,
                                pos_att_type=["p2c", "c2p"], position_buckets=32, share_att_key=True,
                                norm_rel_ebd="layer_norm", position_biased_input=False)
    return hf.DebertaV2Model(config), IDS, STATES


@architecture
def modernbert(attention):
    config = hf.ModernBertConfig(**{**SIZES, "num_hidden_layers": 4}, max_position_embeddings=256, local_attention=16,
                                 global_attn_every_n_layers=2, pad_token_id=0, attn_implementation=attention)
    return hf.ModernBertModel(config), IDS, STATES


@architecture
def longformer(attention):
    config = hf.LongformerConfig(**SIZES, max_position_embeddings=258, attention_window=8, type_vocab_size=1)
    return hf.LongformerModel(config, add_pooling_layer=False), {**IDS, "global_attention_mask": "global"}, STATES


def t5_config(kind):
    return kind(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)


@architecture
def t5_encoder(attention):
    return hf.T5EncoderModel(t5_config(hf.T5Config)), IDS, STATES


@architecture
def longt5_encoder(attention):
    config = t5_config(hf.LongT5Config)
    config.local_radius = 7
    return hf.LongT5EncoderModel(config), IDS, STATES


@architecture
def t5_full(attention):
    return hf.T5ForConditionalGeneration(t5_config(hf.T5Config)), {**IDS, "decoder_input_ids": "ids"}, ["logits"]


@architecture
def bart_encoder(attention):
    config = hf.BartConfig(vocab_size=120, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                           decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=256,
                           attn_implementation=attention)
    return hf.BartModel(config).encoder, IDS, STATES


@architecture
def clip_text(attention):
    config = hf.CLIPTextConfig(**SIZES, max_position_embeddings=77, eos_token_id=119, bos_token_id=118, pad_token_id=1,
                               attn_implementation=attention)
    return hf.CLIPTextModel(config), IDS, POOLED


@architecture
def gpt2(attention):
    config = hf.GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, n_inner=64, n_positions=256, use_cache=False,
                           attn_implementation=attention)
    return hf.GPT2LMHeadModel(config), IDS, ["logits"]


@architecture
def llama(attention):
    config = hf.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=256, use_cache=False,
                            attn_implementation=attention)
    return hf.LlamaForCausalLM(config), IDS, ["logits"]


@architecture
def vit(attention):
    sizes = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    config = hf.ViTConfig(**sizes, image_size=32, patch_size=8, attn_implementation=attention)
    return hf.ViTModel(config), {"pixel_values": "pixels"}, POOLED


class TorchEncoder(torch.nn.Module):
    """torch.nn.TransformerEncoder, pre-LN, with a boolean key padding mask."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(120, 32)
        self.pos = torch.nn.Embedding(256, 32)
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(32), enable_nested_tensor=False)

    def forward(self, input_ids, attention_mask):
        positions = torch.arange(input_ids.shape[1])[None]
        x = self.embed(input_ids) + self.pos(positions)
        return (self.encoder(x, src_key_padding_mask=attention_mask == 0),)


@architecture
def torchenc_preln(attention):
    return TorchEncoder(), IDS, ["out"]
