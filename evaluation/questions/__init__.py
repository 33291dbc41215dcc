"""Questions that researchers ask of a run or a junction, each with a command of its own."""
