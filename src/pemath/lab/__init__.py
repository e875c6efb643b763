"""Training, measuring and experiments: the only floor that may import torch, transformers and peft.

Those packages are imported inside the functions that need them, so importing a module of this
package stays cheap and works without them.
"""
