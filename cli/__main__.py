"""``python -m opennpe.cli`` is the command."""

from opennpe.cli.main import app

if __name__ == "__main__":
    app()
