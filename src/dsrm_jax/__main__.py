"""`python -m dsrm_jax` is `dsrm-jax`."""

from dsrm_jax.cli.main import main

if __name__ == "__main__":
    main()
