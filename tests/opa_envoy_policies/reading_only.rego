# What is left of a rule set that grew: any GET.
package envoy.authz

import input.attributes.request.http as http_request

default allow = false

allow if is_action_allowed

is_action_allowed if http_request.method == "GET"
