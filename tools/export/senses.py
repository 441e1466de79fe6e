"""Vision and speech models of transformers: a convolution in front, a fixed number of patches or a length that follows from samples."""

import torch
import transformers as hf
from models import IDS, POOLED, STATES, varied

SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
PATCHES = dict(**SIZES, image_size=32, patch_size=8)
PIXELS = {"pixel_values": "pixels"}
WAVES = dict(**SIZES, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2, vocab_size=40,
             num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_proj_dropout=0.0)


@varied
def clip_vision(attention):
    return hf.CLIPVisionModel(hf.CLIPVisionConfig(**PATCHES, attn_implementation=attention)), PIXELS, POOLED


@varied
def siglip_vision(attention):
    return hf.SiglipVisionModel(hf.SiglipVisionConfig(**PATCHES, attn_implementation=attention)), PIXELS, POOLED


@varied
def siglip_text(attention):
    config = hf.SiglipTextConfig(**SIZES, vocab_size=120, max_position_embeddings=128, attn_implementation=attention)
    return hf.SiglipTextModel(config), IDS, POOLED


@varied
def clip(attention):
    """A causal text encoder and a vision encoder in one file."""
    text = dict(**SIZES, vocab_size=120, max_position_embeddings=128, eos_token_id=119, bos_token_id=118, pad_token_id=1)
    config = hf.CLIPConfig(text_config=text, vision_config=PATCHES, projection_dim=16, attn_implementation=attention)
    return hf.CLIPModel(config), {**IDS, **PIXELS}, ["logits_per_image", "text_embeds", "image_embeds"]


@varied
def deit(attention):
    return hf.DeiTModel(hf.DeiTConfig(**PATCHES, attn_implementation=attention)), PIXELS, POOLED


@varied
def vit_class(attention):
    return hf.ViTForImageClassification(hf.ViTConfig(**PATCHES, num_labels=5, attn_implementation=attention)), PIXELS, ["logits"]


@varied
def beit(attention):
    config = hf.BeitConfig(**PATCHES, vocab_size=40, use_relative_position_bias=True, layer_scale_init_value=0.1,
                           attn_implementation=attention)
    return hf.BeitModel(config), PIXELS, POOLED


@varied
def beit_shared(attention):
    config = hf.BeitConfig(**PATCHES, vocab_size=40, use_shared_relative_position_bias=True, use_mean_pooling=False,
                           attn_implementation=attention)
    return hf.BeitModel(config), PIXELS, STATES


@varied
def dinov2(attention):
    config = hf.Dinov2Config(**{k: v for k, v in PATCHES.items() if k != "intermediate_size"}, mlp_ratio=2, use_swiglu_ffn=True,
                             attn_implementation=attention)
    return hf.Dinov2Model(config), PIXELS, POOLED


@varied
def dinov3(attention):
    config = hf.DINOv3ViTConfig(**PATCHES, num_register_tokens=2, use_gated_mlp=True, attn_implementation=attention)
    return hf.DINOv3ViTModel(config), PIXELS, POOLED


@varied
def vit_any_size(attention):
    """Pictures of any size: as many tokens as patches."""

    class AnySize(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = torch.nn.Conv2d(3, 32, 4, 4)
            layer = hf.ViTModel(hf.ViTConfig(**PATCHES, attn_implementation=attention), add_pooling_layer=False)
            self.encoder, self.norm = layer.encoder, layer.layernorm

        def forward(self, pixel_values):
            tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
            return (self.norm(self.encoder(tokens)[0]),)

    return AnySize(), {"pixel_values": "picture"}, STATES


@varied
def yolos(attention):
    config = hf.YolosConfig(**{**SIZES, "num_hidden_layers": 2}, image_size=[32, 32], patch_size=8, num_detection_tokens=4,
                            use_mid_position_embeddings=False, attn_implementation=attention)
    return hf.YolosModel(config), PIXELS, STATES


@varied
def swin(attention):
    """Attention inside windows of patches."""
    config = hf.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[2], num_heads=[2], window_size=4)
    return hf.SwinModel(config), PIXELS, POOLED


@varied
def segformer(attention):
    """Keys and values are convolved to a shorter sequence."""
    config = hf.SegformerConfig(num_encoder_blocks=1, depths=[2], sr_ratios=[2], hidden_sizes=[32], num_attention_heads=[4],
                                patch_sizes=[7], strides=[4], mlp_ratios=[2])
    return hf.SegformerModel(config), PIXELS, STATES


@varied
def detr(attention):
    """A convolutional backbone, an encoder over its map, a decoder with queries."""
    backbone = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"])
    config = hf.DetrConfig(use_timm_backbone=False, backbone=None, use_pretrained_backbone=False, backbone_config=backbone, d_model=32,
                           encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
                           decoder_ffn_dim=64, num_queries=5, num_labels=4, attn_implementation=attention)
    return hf.DetrForObjectDetection(config), PIXELS, ["logits", "pred_boxes"]


@varied
def videomae(attention):
    config = hf.VideoMAEConfig(**PATCHES, num_frames=4, tubelet_size=2, attn_implementation=attention)
    return hf.VideoMAEModel(config), {"pixel_values": "frames"}, STATES


@varied
def spectrogram(attention):
    """The audio spectrogram transformer."""
    config = hf.ASTConfig(**SIZES, patch_size=8, max_length=40, num_mel_bins=16, frequency_stride=8, time_stride=8,
                          attn_implementation=attention)
    return hf.ASTModel(config), {"input_values": "spectrum"}, POOLED


def whisper_config(attention):
    return hf.WhisperConfig(vocab_size=120, num_mel_bins=8, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_source_positions=24,
                            max_target_positions=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
                            begin_suppress_tokens=None, use_cache=False, attn_implementation=attention)


@varied
def whisper_encoder(attention):
    return hf.WhisperModel(whisper_config(attention)).encoder, {"input_features": "mel"}, STATES


@varied
def whisper_full(attention):
    model = hf.WhisperForConditionalGeneration(whisper_config(attention))
    return model, {"input_features": "mel", "decoder_input_ids": "ids"}, ["logits"]


@varied
def wav2vec2(attention):
    config = hf.Wav2Vec2Config(**WAVES, do_stable_layer_norm=False, feat_extract_norm="group", attn_implementation=attention)
    return hf.Wav2Vec2Model(config), {"input_values": "wave"}, STATES


@varied
def wav2vec2_ctc(attention):
    config = hf.Wav2Vec2Config(**WAVES, do_stable_layer_norm=True, feat_extract_norm="layer", attn_implementation=attention)
    return hf.Wav2Vec2ForCTC(config), {"input_values": "wave", "attention_mask": "wave_mask"}, ["logits"]


@varied
def hubert(attention):
    return hf.HubertModel(hf.HubertConfig(**WAVES, attn_implementation=attention)), {"input_values": "wave"}, STATES


@varied
def data2vec_audio(attention):
    sizes = {**WAVES, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}
    return hf.Data2VecAudioModel(hf.Data2VecAudioConfig(**sizes, attn_implementation=attention)), {"input_values": "wave"}, STATES


@varied
def wavlm(attention):
    """A relative position bias that each layer gates by its own hidden states."""
    config = hf.WavLMConfig(**WAVES, num_buckets=16, max_bucket_distance=40)
    return hf.WavLMModel(config), {"input_values": "wave"}, STATES


@varied
def conformer(attention):
    """Convolutions over tokens in every block."""
    config = hf.Wav2Vec2ConformerConfig(**WAVES, position_embeddings_type="rotary", conv_depthwise_kernel_size=3,
                                        rotary_embedding_base=1000)
    return hf.Wav2Vec2ConformerModel(config), {"input_values": "wave"}, STATES


@varied
def sew(attention):
    """Pools before its encoder and upsamples after it."""
    config = hf.SEWConfig(**WAVES, squeeze_factor=2, attn_implementation=attention)
    return hf.SEWModel(config), {"input_values": "wave"}, STATES


@varied
def patchtst(attention):
    """Time series: attention over patches of each channel."""
    config = hf.PatchTSTConfig(num_input_channels=3, context_length=32, patch_length=4, patch_stride=4, d_model=32, num_hidden_layers=2,
                               num_attention_heads=4, ffn_dim=64, channel_attention=False, norm_type="layernorm", use_cls_token=False,
                               attn_implementation=attention)
    return hf.PatchTSTModel(config), {"past_values": "series"}, STATES
