"""``python -m qwenlong.flows.cli``: the console command, where its script is not on the path."""

from qwenlong.flows.cli.main import main

if __name__ == "__main__":
    main()
