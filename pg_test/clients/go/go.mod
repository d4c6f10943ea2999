module calls

go 1.19

require agentguardtoken v0.0.0

replace agentguardtoken => ../../../clients/go/agentguardtoken
