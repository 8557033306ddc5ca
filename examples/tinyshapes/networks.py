"""The three networks in the libraries of reference (diffusers, transformers), at toy width."""

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

VOCABULARY = 49408
TEXT_WIDTH = 64
NORM_GROUPS = 8
UNET_HEADS = 4
TEXT_HEADS = 1
EMBEDDING_DEVIATION = 0.1


def make_vae() -> AutoencoderKL:
    """Images f32[b,3,h,w] from -1 to 1, latents f32[b,4,h/4,w/4]."""
    widths = (32, 32, 64)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=NORM_GROUPS,
        sample_size=64,
    )


def make_unet() -> UNet2DConditionModel:
    """Predicts the noise; attention at the two coarser of three levels, and in the middle."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=UNET_HEADS,
        norm_num_groups=NORM_GROUPS,
    )


def make_text_encoder() -> CLIPTextModel:
    """CLIP's text transformer, 77 positions and its whole vocabulary."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=TEXT_HEADS,
        hidden_act="quick_gelu",
        projection_dim=TEXT_WIDTH,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    model = CLIPTextModel(config)
    model.get_input_embeddings().weight.data.normal_(0, EMBEDDING_DEVIATION)
    return model
