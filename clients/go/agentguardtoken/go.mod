module agentguardtoken

go 1.19
