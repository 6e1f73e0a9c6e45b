"""The artifact store. Read files (digests), artifacts (manifests), protocol (what a store does), local, fingerprint."""
