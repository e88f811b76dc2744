"""Rename rules for networks of inverted residual blocks, for timm."""


def rules(unexpanded: tuple[int, ...] = (1,)) -> tuple[tuple[str, str], ...]:
    """Returns the rename rules of a network of inverted residual blocks.

    Args:
      unexpanded: numbers of the stages whose blocks have no expansion convolution. Timm numbers the
        remaining layers of such a block from 1, so that their names differ.

    Returns:
      Pairs of a regular expression and its replacement, for `Names.rules`.
    """
    return (
        *(
            rule
            for stage in unexpanded
            for rule in (
                (rf"^(stage{stage}_\d+)\.depthwise\.bn$", r"\1.bn1"),
                (rf"^(stage{stage}_\d+)\.project\.conv$", r"\1.conv_pw"),
                (rf"^(stage{stage}_\d+)\.project\.bn$", r"\1.bn2"),
            )
        ),
        (r"\.expand\.conv$", ".conv_pw"),
        (r"\.expand\.bn$", ".bn1"),
        (r"\.depthwise\.conv$", ".conv_dw"),
        (r"\.depthwise\.bn$", ".bn2"),
        (r"\.project\.conv$", ".conv_pwl"),
        (r"\.project\.bn$", ".bn3"),
        (r"\.se\.(reduce|expand)$", r".se.conv_\1"),
        *((f"^stage{number}_", f"blocks.{number - 1}.") for number in range(1, 8)),
        (r"^stem\.conv$", "conv_stem"),
        (r"^stem\.bn$", "bn1"),
        (r"^head\.conv$", "conv_head"),
        (r"^head\.bn$", "bn2"),
    )
