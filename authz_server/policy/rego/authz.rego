# METADATA
# title: Shipped policy
# description: |
#   The access policy's own decision and nothing else. A team that has rules of its own
#   replaces this file by another of the same package.
package authz

import data.authz.access

# METADATA
# title: What authz-server asks for each request
# entrypoint: true
decision := access.decision
