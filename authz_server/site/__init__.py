"""What an access policy does not say about the plant that it is enforced in.

Ports, namespaces, addresses, boxes: `Site`, read from a file of its own, since one
policy may be enforced in many places. Emitters and verification read it, never the
server.
"""
