"""https.py URL CERTIFICATE: print the SHA-256 of what is there."""
import hashlib, ssl, sys, urllib.request

with urllib.request.urlopen(sys.argv[1], context=ssl.create_default_context(cafile=sys.argv[2])) as r:
    print(hashlib.sha256(r.read()).hexdigest())
