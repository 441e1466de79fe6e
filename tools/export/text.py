"""Text models of transformers: encoders, their heads, encoder-decoders, and what must be refused."""

import torch
import transformers as hf
from models import IDS, POOLED, STATES, TYPED, varied

SIZES = dict(vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
BERT = dict(**SIZES, max_position_embeddings=128)
OFFSET = dict(**SIZES, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1)
BOXED = {**IDS, "bbox": "boxes"}


def base(kind, config, attention, sizes=BERT, **more):
    return kind(config(**sizes, attn_implementation=attention, **more))


@varied
def bert_varied(attention):
    return base(hf.BertModel, hf.BertConfig, attention), TYPED, POOLED


@varied
def bert_unmasked(attention):
    return base(hf.BertModel, hf.BertConfig, attention), {"input_ids": "ids"}, STATES


@varied
def bert_positions(attention):
    inputs = {**TYPED, "position_ids": "positions"}
    return base(hf.BertModel, hf.BertConfig, attention), inputs, STATES


@varied
def bert_mlm(attention):
    return base(hf.BertForMaskedLM, hf.BertConfig, attention), TYPED, ["logits"]


@varied
def bert_tokens(attention):
    return base(hf.BertForTokenClassification, hf.BertConfig, attention, num_labels=5), TYPED, ["logits"]


@varied
def bert_attentions(attention):
    config = hf.BertConfig(**BERT, attn_implementation=attention, output_attentions=True)
    return hf.BertModel(config, add_pooling_layer=False), TYPED, [*STATES, "att0", "att1"]


@varied
def bert_relative(attention):
    return base(hf.BertModel, hf.BertConfig, attention, position_embedding_type="relative_key_query"), TYPED, STATES


@varied
def bert_dual(attention):
    """Two encoders, a question's and a text's, in one file."""

    class Dual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.question = base(hf.BertModel, hf.BertConfig, attention)
            self.text = base(hf.BertModel, hf.BertConfig, attention)

        def forward(self, input_ids, attention_mask, text_ids, text_mask):
            a = self.question(input_ids, attention_mask=attention_mask).pooler_output
            b = self.text(text_ids, attention_mask=text_mask).pooler_output
            return a, b

    return Dual(), {**IDS, "text_ids": "ids", "text_mask": "mask"}, ["question", "text"]


@varied
def sentence_mean(attention):
    """Mean pooling over the mask and normalisation, as sentence-transformers exports them."""

    class Sentence(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = base(hf.MPNetModel, hf.MPNetConfig, attention, OFFSET)

        def forward(self, input_ids, attention_mask):
            states = self.encoder(input_ids, attention_mask=attention_mask)[0]
            mask = attention_mask[..., None].float()
            pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return states, torch.nn.functional.normalize(pooled, dim=1)

    return Sentence(), IDS, ["token_embeddings", "sentence_embedding"]


@varied
def xlmr(attention):
    return base(hf.XLMRobertaModel, hf.XLMRobertaConfig, attention, OFFSET), IDS, POOLED


@varied
def xlmr_class(attention):
    return base(hf.XLMRobertaForSequenceClassification, hf.XLMRobertaConfig, attention, OFFSET), IDS, ["logits"]


@varied
def camembert_tokens(attention):
    return base(hf.CamembertForTokenClassification, hf.CamembertConfig, attention, OFFSET), IDS, ["logits"]


@varied
def roberta_prenorm(attention):
    return base(hf.RobertaPreLayerNormModel, hf.RobertaPreLayerNormConfig, attention, OFFSET), IDS, STATES


@varied
def data2vec_text(attention):
    return base(hf.Data2VecTextModel, hf.Data2VecTextConfig, attention, OFFSET), IDS, STATES


@varied
def electra(attention):
    return base(hf.ElectraModel, hf.ElectraConfig, attention, embedding_size=16), TYPED, STATES


@varied
def electra_disc(attention):
    return base(hf.ElectraForPreTraining, hf.ElectraConfig, attention, embedding_size=16), TYPED, ["logits"]


@varied
def albert_mlm(attention):
    return base(hf.AlbertForMaskedLM, hf.AlbertConfig, attention, embedding_size=16), TYPED, ["logits"]


@varied
def distilbert_mlm(attention):
    config = hf.DistilBertConfig(vocab_size=120, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=128,
                                 sinusoidal_pos_embds=True, attn_implementation=attention)
    return hf.DistilBertForMaskedLM(config), IDS, ["logits"]


@varied
def mpnet_varied(attention):
    return base(hf.MPNetModel, hf.MPNetConfig, attention, {k: v for k, v in OFFSET.items() if k != "type_vocab_size"}), IDS, STATES


@varied
def ernie(attention):
    return base(hf.ErnieModel, hf.ErnieConfig, attention, use_task_id=True, task_type_vocab_size=3), TYPED, POOLED


@varied
def megatron_bert(attention):
    return base(hf.MegatronBertModel, hf.MegatronBertConfig, attention), TYPED, POOLED


@varied
def rembert(attention):
    return base(hf.RemBertModel, hf.RemBertConfig, attention, input_embedding_size=16), TYPED, STATES


@varied
def mobilebert(attention):
    config = hf.MobileBertConfig(**BERT, embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2)
    return hf.MobileBertModel(config), TYPED, STATES


@varied
def squeezebert(attention):
    """Projections are convolutions of width 1, in groups, over [batch, channel, token]."""
    config = hf.SqueezeBertConfig(**BERT, embedding_size=32, q_groups=2, k_groups=2, v_groups=2, post_attention_groups=1,
                                  intermediate_groups=2, output_groups=2)
    return hf.SqueezeBertModel(config), TYPED, STATES


@varied
def ibert(attention):
    return hf.IBertModel(hf.IBertConfig(**OFFSET)), IDS, STATES


@varied
def roformer(attention):
    return hf.RoFormerModel(hf.RoFormerConfig(**BERT, embedding_size=32)), TYPED, STATES


@varied
def esm(attention):
    config = hf.EsmConfig(**SIZES, max_position_embeddings=130, position_embedding_type="rotary", pad_token_id=1, mask_token_id=3,
                          token_dropout=True, emb_layer_norm_before=False, attn_implementation=attention)
    return hf.EsmModel(config, add_pooling_layer=False), IDS, STATES


@varied
def esm_absolute(attention):
    config = hf.EsmConfig(**SIZES, max_position_embeddings=130, position_embedding_type="absolute", pad_token_id=1, mask_token_id=3,
                          token_dropout=False, emb_layer_norm_before=True, attn_implementation=attention)
    return hf.EsmForMaskedLM(config), IDS, ["logits"]


@varied
def bigbird_full(attention):
    return hf.BigBirdModel(hf.BigBirdConfig(**BERT, attention_type="original_full")), TYPED, STATES


def deberta_config(kind, **more):
    return kind(**BERT, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, **more)


@varied
def deberta(attention):
    return hf.DebertaModel(deberta_config(hf.DebertaConfig)), IDS, STATES


@varied
def deberta_v3_class(attention):
    config = deberta_config(hf.DebertaV2Config, position_buckets=16, share_att_key=True, norm_rel_ebd="layer_norm")
    return hf.DebertaV2ForSequenceClassification(config), IDS, ["logits"]


@varied
def deberta_v3_unshared(attention):
    config = deberta_config(hf.DebertaV2Config, position_buckets=-1, share_att_key=False)
    return hf.DebertaV2Model(config), IDS, STATES


def modernbert_config(**more):
    return hf.ModernBertConfig(**{**SIZES, "num_hidden_layers": 3}, max_position_embeddings=128, local_attention=16,
                               global_attn_every_n_layers=3, pad_token_id=0, **more)


@varied
def modernbert_class(attention):
    config = modernbert_config(attn_implementation=attention, classifier_pooling="mean")
    return hf.ModernBertForSequenceClassification(config), IDS, ["logits"]


@varied
def modernbert_mlm(attention):
    return hf.ModernBertForMaskedLM(modernbert_config(attn_implementation=attention)), IDS, ["logits"]


@varied
def layoutlm(attention):
    return hf.LayoutLMModel(hf.LayoutLMConfig(**BERT, max_2d_position_embeddings=128)), BOXED, STATES


@varied
def layoutlmv3(attention):
    config = hf.LayoutLMv3Config(**{**OFFSET, "type_vocab_size": 2}, max_2d_position_embeddings=128, coordinate_size=4, shape_size=8,
                                 visual_embed=False, rel_pos_bins=8, rel_2d_pos_bins=8, max_rel_pos=32, max_rel_2d_pos=64)
    return hf.LayoutLMv3Model(config), BOXED, STATES


@varied
def lilt(attention):
    """Two streams, text and layout, that meet in every attention."""
    config = hf.LiltConfig(**{**OFFSET, "hidden_size": 24}, max_2d_position_embeddings=128, channel_shrink_ratio=2)
    return hf.LiltModel(config), BOXED, STATES


@varied
def funnel(attention):
    """Pools its sequence between blocks."""
    config = hf.FunnelConfig(vocab_size=120, block_sizes=[1, 1], num_decoder_layers=1, d_model=32, n_head=4, d_head=8, d_inner=64)
    return hf.FunnelModel(config), TYPED, STATES


@varied
def convbert(attention):
    """Half of its heads are convolutions over tokens."""
    return hf.ConvBertModel(hf.ConvBertConfig(**BERT, embedding_size=32, head_ratio=2, conv_kernel_size=3)), TYPED, STATES


@varied
def nystromformer(attention):
    config = hf.NystromformerConfig(**BERT, num_landmarks=8, segment_means_seq_len=8)
    return hf.NystromformerModel(config), TYPED, STATES


@varied
def fnet(attention):
    return hf.FNetModel(hf.FNetConfig(**SIZES, max_position_embeddings=128)), {"input_ids": "ids"}, STATES


@varied
def xlm(attention):
    config = hf.XLMConfig(vocab_size=120, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=128, n_langs=1)
    return hf.XLMModel(config), IDS, STATES


@varied
def flaubert(attention):
    config = hf.FlaubertConfig(vocab_size=120, emb_dim=32, n_layers=2, n_heads=4, max_position_embeddings=128, n_langs=1, pre_norm=True)
    return hf.FlaubertModel(config), IDS, STATES


@varied
def xlnet(attention):
    config = hf.XLNetConfig(vocab_size=120, d_model=32, n_layer=2, n_head=4, d_inner=64, use_mems_eval=False)
    return hf.XLNetModel(config), TYPED, STATES


@varied
def embedding_gemma(attention):
    """Gemma 3 with attention to both sides."""
    config = hf.Gemma3TextConfig(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=64,
                                 use_bidirectional_attention=True, use_cache=False, attn_implementation=attention)
    return hf.Gemma3TextModel(config), IDS, STATES


def t5(kind, **more):
    return kind(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, use_cache=False, **more)


GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
PAIR = {**IDS, "decoder_input_ids": "ids"}


@varied
def t5v11_encoder(attention):
    return hf.T5EncoderModel(t5(hf.T5Config, **GATED)), IDS, STATES


@varied
def mt5_encoder(attention):
    return hf.MT5EncoderModel(t5(hf.MT5Config)), IDS, STATES


@varied
def umt5_encoder(attention):
    return hf.UMT5EncoderModel(t5(hf.UMT5Config)), IDS, STATES


@varied
def umt5_full(attention):
    return hf.UMT5ForConditionalGeneration(t5(hf.UMT5Config)), PAIR, ["logits"]


@varied
def longt5_global(attention):
    config = t5(hf.LongT5Config, encoder_attention_type="transient-global", local_radius=7, global_block_size=4)
    return hf.LongT5EncoderModel(config), IDS, STATES


@varied
def t5gemma(attention):
    sizes = dict(**SIZES, num_key_value_heads=2, head_dim=8, max_position_embeddings=128, sliding_window=64, query_pre_attn_scalar=8,
                 attn_implementation=attention)
    config = hf.T5GemmaConfig(encoder=dict(**sizes), decoder=dict(**sizes, use_cache=False), vocab_size=120, is_encoder_decoder=False,
                              attn_implementation=attention)
    return hf.T5GemmaEncoderModel(config), IDS, STATES


def bart_sizes(attention, **more):
    return dict(vocab_size=120, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128, use_cache=False, attn_implementation=attention,
                pad_token_id=1, decoder_start_token_id=2, **more)


@varied
def bart_full(attention):
    return hf.BartForConditionalGeneration(hf.BartConfig(**bart_sizes(attention))), PAIR, ["logits"]


@varied
def marian_full(attention):
    return hf.MarianMTModel(hf.MarianConfig(**bart_sizes(attention))), PAIR, ["logits"]


@varied
def marian_encoder(attention):
    return hf.MarianModel(hf.MarianConfig(**bart_sizes(attention))).encoder, IDS, STATES


@varied
def mbart_encoder(attention):
    return hf.MBartModel(hf.MBartConfig(**bart_sizes(attention))).encoder, IDS, STATES


@varied
def pegasus_encoder(attention):
    return hf.PegasusModel(hf.PegasusConfig(**bart_sizes(attention))).encoder, IDS, STATES


@varied
def m2m_encoder(attention):
    return hf.M2M100Model(hf.M2M100Config(**bart_sizes(attention))).encoder, IDS, STATES


@varied
def bert2bert(attention):
    encoder = hf.BertConfig(**BERT)
    decoder = hf.BertConfig(**BERT, is_decoder=True, add_cross_attention=True, use_cache=False)
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder, decoder_start_token_id=2, pad_token_id=0)
    model = hf.EncoderDecoderModel(config)
    model.encoder.set_attn_implementation(attention)
    model.decoder.set_attn_implementation(attention)
    return model, PAIR, ["logits"]


@varied
def bert_decoder(attention):
    config = hf.BertConfig(**BERT, attn_implementation=attention, is_decoder=True, use_cache=False)
    return hf.BertLMHeadModel(config), IDS, ["logits"]


@varied
def bloom(attention):
    config = hf.BloomConfig(vocab_size=120, hidden_size=32, n_layer=2, n_head=4, use_cache=False)
    return hf.BloomForCausalLM(config), IDS, ["logits"]
