-- The id of a room, from its key. KEYS[1] is the feed: its key ends in ":feed" where a room's has ":room:" and the id.

local function room_id(room)
  return string.sub(room, #KEYS[1] + 2)
end
