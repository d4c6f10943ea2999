// Calls the Go client for test_clients.py: a JSON list [function, argument...] a line, one JSON object a line back.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	client "agentguardtoken"
)

func main() {
	lines, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var call []any
		if err := json.Unmarshal(lines.Bytes(), &call); err != nil {
			panic(err)
		}
		value, err := answer(call)
		if err != nil {
			_ = out.Encode(map[string]any{"error": err.Error()})
		} else {
			_ = out.Encode(map[string]any{"value": value})
		}
	}
}

func answer(call []any) (any, error) {
	text := call[1].(string)
	switch call[0] {
	case "derive":
		claims := client.Claims{}
		for key, value := range call[3].(map[string]any) {
			claims[key] = typed(value)
		}
		return client.Derive(text, call[2].(string), claims)
	case "extend":
		return client.Extend(text, call[2].(string))
	case "prove":
		return client.Prove(text, call[2].(string))
	case "block_ids":
		return client.BlockIDs(text), nil
	case "expires_at":
		return client.ExpiresAt(text)
	}
	return nil, fmt.Errorf("no function %v", call[0])
}

// typed gives whole numbers and lists of strings the types that Go code has for them; all else stays as JSON gives it.
func typed(value any) any {
	switch value := value.(type) {
	case string:
		if value == "nil list" { // a value that JSON does not have
			return []string(nil)
		}
	case float64:
		if value == float64(int64(value)) {
			return int64(value)
		}
	case []any:
		list := []string{}
		for _, item := range value {
			text, ok := item.(string)
			if !ok {
				return value
			}
			list = append(list, text)
		}
		return list
	}
	return value
}
