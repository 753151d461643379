"""What tools/make_conformance.py is made of."""
