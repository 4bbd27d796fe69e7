"""A double of the Hugging Face Hub for tests: it takes pushes, over Xet and over LFS, and fails when it is told to.

It is not the Hub. Its answers are those that huggingface_hub 1.33 and hf_xet 1.8 were seen to need. Left out: git over
HTTP, discussions, the dataset viewer, quotas, renamed repositories, multipart uploads.
"""

from fakehub.client import Client, Result, http_library
from fakehub.server import HubDouble

__all__ = ["Client", "HubDouble", "Result", "http_library"]
