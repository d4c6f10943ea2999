// Package agentguardtoken derives from tokens of agent_guard and answers challenges with them, offline (docs/token.md).
//
// A token (agt1...) is a secret. A proof (agp1...) answers one challenge of one session and is useless elsewhere. What
// a block may say and how large it may be is judged by the server; here only the types of its values are.
package agentguardtoken

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	token     = regexp.MustCompile(`^agt1\.([\w-]{27}(?:\.[\w-]+)+)\.([\w-]{43})$`)
	challenge = regexp.MustCompile(`^agc1\.[\w-]{32}(?:\.[\w-]{43})?$`)
	base64url = base64.RawURLEncoding.Strict()
)

// Claims says what a block leaves of its parent's scope: a string, an int, an int64, true or a []string for each key.
// It is a map and no struct with omitempty, which would turn an empty list into "everything is inherited".
type Claims map[string]any

// Derive makes a child's token for the agent sub. A claim that is not given is inherited; exp is then the parent's.
func Derive(parent, sub string, claims Claims) (string, error) {
	exp, err := ExpiresAt(parent)
	if err != nil {
		return "", err
	}
	jti := make([]byte, 16)
	if _, err := rand.Read(jti); err != nil {
		return "", err
	}
	block := Claims{"exp": exp}
	for key, value := range claims {
		block[key] = value
	}
	block["jti"], block["sub"] = base64url.EncodeToString(jti), sub
	for key, value := range block {
		list, isList := value.([]string)
		switch value.(type) {
		case string, int, int64:
		default:
			if value != true && (!isList || list == nil) {
				return "", fmt.Errorf("%s: a claim is a string, a whole number, true or a list of strings; never nil", key)
			}
		}
	}
	text, err := json.Marshal(block)
	if err != nil {
		return "", err
	}
	return Extend(parent, string(text))
}

// Extend adds one more block, given as JSON text. The parent's tag cannot be recovered from the result.
func Extend(parent, block string) (string, error) {
	chain, tag, err := split(parent)
	if err != nil {
		return "", err
	}
	text := base64url.EncodeToString([]byte(block))
	return "agt1." + chain + "." + text + "." + mac(tag, "agt1/block."+text), nil
}

// Prove answers the challenge of a session: what goes into SET agent_guard.token.
func Prove(secret, nonce string) (string, error) {
	chain, tag, err := split(secret)
	if err == nil && !challenge.MatchString(nonce) {
		err = errors.New("not a challenge")
	}
	if err != nil {
		return "", err
	}
	return "agp1." + chain + "." + mac(tag, "agp1/proof."+nonce), nil
}

// BlockIDs gives the public ids of the blocks of a token or a proof, the root's first. Revocation goes by them.
func BlockIDs(text string) (ids []string) {
	segments := strings.Split(text, ".")
	for end := 3; end < len(segments); end++ {
		id := sha256.Sum256([]byte("agt1/bid." + strings.Join(segments[1:end], ".")))
		ids = append(ids, hex.EncodeToString(id[:16]))
	}
	return ids
}

// ExpiresAt gives the earliest exp of the blocks, in unix seconds. Reckon a child's exp from it, not from a clock.
func ExpiresAt(secret string) (int64, error) {
	chain, _, err := split(secret)
	if err != nil {
		return 0, err
	}
	earliest := int64(1<<53 - 1)
	for _, text := range strings.Split(chain, ".")[1:] {
		raw, err := decode(text)
		if err != nil {
			return 0, err
		}
		block := struct{ Exp *int64 }{}
		if err := json.Unmarshal(raw, &block); err != nil || block.Exp == nil {
			return 0, errors.New("a block without exp")
		}
		if *block.Exp < earliest {
			earliest = *block.Exp
		}
	}
	return earliest, nil
}

func split(text string) (chain string, tag []byte, err error) {
	parts := token.FindStringSubmatch(text)
	if parts == nil {
		return "", nil, errors.New("not a token; a proof can be neither derived from nor proved again")
	}
	tag, err = decode(parts[2])
	return parts[1], tag, err
}

func mac(key []byte, message string) string {
	hash := hmac.New(sha256.New, key)
	hash.Write([]byte(message))
	return base64url.EncodeToString(hash.Sum(nil))
}

func decode(text string) ([]byte, error) {
	return base64url.DecodeString(text)
}
