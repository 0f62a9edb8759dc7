"""curves.png, what a run shows of itself."""

import io

from training.files import write_whole


def draw_curves(path, rows):
    """Draws curves.png: test accuracy of the raw and the EMA weights over epochs."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, label in (("raw_accuracy", "raw weights"), ("ema_accuracy", "EMA weights")):
        accuracy = [100 * row[key] for row in rows]
        axes.plot(epochs, accuracy, marker="o", markersize=4, label=f"{label}, {accuracy[-1]:.2f}% at the end")
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path / "curves.png", content.getvalue())
