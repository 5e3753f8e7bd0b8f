"""What an evaluation found."""


def show(dice, classes):
    """Prints the mean Dice over the classes but the background, and that of each class."""
    per_case = dice.get_buffer()
    per_class = per_case.mean(dim=0).tolist()
    named = ", ".join(f"{name} {value:.6f}" for name, value in zip(classes[1:], per_class))
    print(f"mean Dice {per_case.mean().item():.6f} over {len(per_case)} cases: {named}")
