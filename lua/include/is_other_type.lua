-- Whether a command failed since its key has another type, which was made by hand. Nothing else removes such a key.
--
-- Any other error, as that of a denied permission, says nothing of the key, which then must stay. In fakeredis, which
-- has no permissions, an error is no string.

local function is_other_type(reply)
  return type(reply) == 'table' and (type(reply.err) ~= 'string' or string.find(reply.err, 'WRONGTYPE', 1, true))
end
