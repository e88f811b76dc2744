"""What networks of inverted residual blocks are called in timm."""


def rules(unexpanded: tuple[int, ...] = (1,)) -> tuple[tuple[str, str], ...]:
    """The rename table where the stages of these numbers expand nothing: a layer less to count."""
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
