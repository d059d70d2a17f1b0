"""`python -m kiara_cli` is `kiara`: what torchrun starts."""

from kiara_cli.app import main

if __name__ == "__main__":
    main()
