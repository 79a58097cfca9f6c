"""One spelling of each word: British words in American spelling, traditional Chinese characters simplified, letters without accents."""

import re
import unicodedata

# The right-hand form need not be a word: both answers are rewritten, so a rule only has to keep different words apart.
_RULES = [
    (re.compile(rf"\b{pattern}"), to)
    for pattern, to in (
        (r"([a-z]{3,}|od|ard|vap)our(s|ed|ing|ful|less|able|ite|ites|hood|ly|al)?\b", r"\1or\2"),
        (r"([a-z]{3,})is(e|es|ed|ing|er|ers|ation|ations)\b", r"\1iz\2"),
        (r"(anal|paral|catal)ys(e|es|ed|ing)\b", r"\1yz\2"),
        (r"((?:[a-z]*)met|(?:[a-z]*)lit|cent|theat|fib|calib|somb|lust|spect|sab|goit|och)re(s)?\b", r"\1er\2"),
        (r"(catal|dial|anal|monol|epil|prol)ogue(s)?\b", r"\1og\2"),
        (r"(trave|cance|mode|labe|signa|jewe|fue|leve|chane|tota|marve|counse)ll(ed|ing|er|ers|or|ors)\b", r"\1l\2"),
        (r"(defen|offen|licen|preten|practi)ce(s|d)?\b", r"\1se\2"),
        (r"(an|h|leuk|isch)aem", r"\1em"),
        (r"(o)estr", "estr"),
        (r"f(o)et(us|al)", r"fet\2"),
        (r"(p|orthop)aed", r"\1ed"),
        (r"caesium", "cesium"),
        (r"encyclopaed", "encycloped"),
        (r"diarrhoea", "diarrhea"),
        (r"manoeuv(?:re|er)", "maneuver"),
        (r"(judg|acknowledg)ement", r"\1ment"),
    )
]
_BRITISH = """grey=gray greyish=grayish greyscale=grayscale aluminium=aluminum sulphur=sulfur sulphate=sulfate sulphide=sulfide
sulphuric=sulfuric aeroplane=airplane aeroplanes=airplanes tyre=tire tyres=tires cheque=check cheques=checks
programme=program programmes=programs jewellery=jewelry plough=plow mould=mold mouldy=moldy smoulder=smolder
moustache=mustache pyjamas=pajamas storey=story storeys=stories kerb=curb draught=draft artefact=artifact
artefacts=artifacts yoghurt=yogurt doughnut=donut doughnuts=donuts fulfil=fulfill skilful=skillful enrol=enroll axe=ax
cosy=cozy sceptic=skeptic gaol=jail ageing=aging whisky=whiskey tsar=czar mum=mom maths=math ok=okay"""
_SHORT = """tues=tuesday tue=tuesday wed=wednesday thu=thursday thur=thursday thurs=thursday fri=friday jan=january feb=february
apr=april jun=june jul=july aug=august sep=september sept=september oct=october nov=november dec=december doctor=dr mister=mr
saint=st street=st avenue=ave boulevard=blvd road=rd mount=mt junior=jr senior=sr incorporated=inc corporation=corp limited=ltd
department=dept apartment=apt versus=vs number=no"""
_ABBREVIATED = dict(pair.split("=") for pair in _SHORT.split())
_CALENDAR = {form for form in _ABBREVIATED.values() if len(form) > 3 and form not in ("blvd", "corp", "dept")}
_WORDS = dict(pair.split("=") for pair in _BRITISH.split())

# Pairs of a traditional character and its simplified form, of everyday words. No simplified text (GB 2312) has one of the former.
_PAIRS = """\
紅红 綠绿 藍蓝 黃黄 顏颜 東东 國国 車车 門门 間间 問问 開开 關关 馬马 鳥鸟 魚鱼 貓猫 龍龙 風风 飛飞 機机 書书 學学 習习 語语 說说
話话 請请 謝谢 買买 賣卖 貴贵 錢钱 銀银 鐵铁 銅铜 鋼钢 鐘钟 錶表 襪袜 帶带 電电 腦脑 視视 線线 網网 頁页 圖图 畫画 樹树 葉叶 蘋苹
飯饭 廳厅 館馆 園园 區区 縣县 鎮镇 鄉乡 島岛 灣湾 陽阳 陰阴 雲云 霧雾 熱热 凍冻 濕湿 顆颗 長长 張张 廣广 場场 橋桥 樓楼 層层 牆墙
燈灯 點点 圓圆 邊边 錐锥 體体 積积 數数 與与 聯联 兩两 個个 們们 來来 會会 時时 從从 對对 為为 這这 還还 進进 過过 運运 動动 員员
隊队 賽赛 紀纪 錄录 韓韩 漢汉 羅罗 蘭兰 義义 亞亚 歐欧 聖圣 誕诞 節节 慶庆 術术 藝艺 樂乐 聲声 響响 聽听 讀读 寫写 記记 憶忆 認认
識识 觀观 覽览 覺觉 醫医 藥药 療疗 護护 衛卫 現现 實实 驗验 證证 據据 結结 論论 質质 雙双 減减 輕轻 舊旧 醜丑 惡恶 愛爱 歡欢 鹽盐
醬酱 鴨鸭 雞鸡 豬猪 驢驴 騾骡 獅狮 鯨鲸 鯊鲨 蝦虾 蟲虫 蟻蚁 蠅蝇 龜龟 貝贝 殼壳 腳脚 頭头 臉脸 鬚须 齒齿 華华 廈厦 蘇苏 陝陕 寧宁
遼辽 廬庐 濟济 漲涨 測测 壓压 強强 軟软 構构 築筑 銹锈 鋁铝 鈉钠 鈣钙 鎂镁 鉀钾 氫氢 鹼碱 溫温 發发 勢势 導导 極极 頻频 徑径 軸轴
標标 軌轨 跡迹 類类 屬属 種种 細细 組组 織织 遺遗 傳传 變变 異异 選选 擇择 錯错 誤误 確确 無无 沒没 條条 塊块 隻只 輛辆 幾几 萬万
億亿 單单 價价 總总 額额 產产 業业 農农 漁渔 經经 貿贸 銷销 費费 稅税 財财 務务 責责 帳帐 戶户 歲岁 齡龄 孫孙 媽妈 爺爷 師师 職职
顧顾 鞦秋 韆千 傘伞 筆笔 紙纸 報报 紹绍 籃篮 檯台 澤泽 漿浆 淚泪 滅灭 災灾 煙烟 燒烧 爐炉 燭烛 營营 牽牵 獎奖 獨独 獲获 環环 瑪玛
瑩莹 盤盘 監监 礦矿 禮礼 禍祸 稱称 穩稳 窮穷 競竞 筍笋 範范 簡简 籠笼 糧粮 純纯 級级 紋纹 終终 絕绝 給给 絲丝 綿绵 緊紧 緣缘 編编
練练 縮缩 縱纵 繩绳 繪绘 續续 纜缆 罰罚 翹翘 聰聪 肅肃 腫肿 膠胶 膚肤 臟脏 艙舱 艦舰 莊庄 莖茎 蔥葱 薦荐 薩萨 虛虚 號号 蠟蜡 補补
裝装 規规 親亲 觸触 訂订 計计 討讨 訓训 託托 許许 訴诉 診诊 詞词 試试 詩诗 該该 詳详 誠诚 課课 調调 談谈 諾诺 謊谎 講讲 譯译 議议
豐丰 貞贞 負负 貢贡 貧贫 貨货 販贩 貪贪 貫贯 賀贺 資资 賓宾 賜赐 賞赏 賠赔 賢贤 賤贱 賴赖 贈赠 贊赞 贏赢 趙赵 趕赶 踐践 軍军 較较
載载 輔辅 輪轮 輸输 轉转 辦办 連连 週周 達达 遊游 遙遥 遞递 遠远 適适 遲迟 鄰邻 鄭郑 釋释 針针 釣钓 鈴铃 鉛铅 銳锐 鋒锋 鋪铺 鍋锅
鍵键 鎖锁 鏡镜 鑰钥 鑽钻 閃闪 閉闭 閒闲 閱阅 闊阔 陣阵 陳陈 陸陆 階阶 際际 隨随 險险 雖虽 離离 難难 靈灵 靜静 韋韦 頂顶 項项 順顺
預预 頑顽 頓顿 頗颇 領领 頸颈 題题 願愿 顯显 飢饥 飲饮 飽饱 餅饼 養养 餓饿 馳驰 駐驻 駕驾 駱骆 駝驼 騎骑 騙骗 驅驱 驕骄 驚惊 髒脏
鬥斗 鬧闹 鮮鲜 鯉鲤 鱷鳄 鳳凤 鴉鸦 鴿鸽 鵝鹅 鷹鹰 麗丽 麥麦 黨党 齊齐 鳴鸣 壽寿 奪夺 奧奥 婦妇 嬰婴 寶宝 將将 專专 尋寻 屍尸 岡冈
峽峡 嶺岭 巖岩 幣币 幫帮 庫库 廟庙 廠厂 彈弹 彎弯 徹彻 恆恒 悶闷 愾忾 態态 慣惯 憂忧 憐怜 應应 懷怀 戀恋 戲戏 戰战 掃扫 掛挂 採采
揚扬 換换 損损 搖摇 摟搂 撐撑 撥拨 擁拥 擊击 擋挡 擔担 擠挤 擬拟 擴扩 擺摆 擾扰 攝摄 敵敌 斷断 昇升 晉晋 暈晕 暢畅 曉晓 曆历 歷历
朧胧 楊杨 槍枪 樁桩 樣样 橫横 檔档 檢检 檸柠 櫃柜 櫻樱 權权 歸归 殘残 殺杀 毀毁 氣气 決决 況况 淨净 淺浅 渦涡 湯汤 溝沟 滾滚 滿满
漸渐 潔洁 潛潜 潤润 澀涩 瀏浏 灑洒 爭争 爾尔 狀状 狹狭 猶犹 獄狱 獸兽 亂乱 亙亘 侖仑 侶侣 俠侠 倉仓 倫伦 偉伟 側侧 偵侦 備备 傑杰
債债 傷伤 傾倾 僅仅 僑侨 僕仆 儀仪 優优 儲储 兇凶 內内 冊册 冪幂 劃划 劇剧 劉刘 劍剑 勁劲 勝胜 勞劳 勵励 勸劝 匯汇 協协 厭厌 參参
叢丛 吳吴 呂吕 喪丧 喬乔 嗎吗 嘗尝 嚇吓 嚴严 團团 執执 堅坚 墊垫 墳坟 墜坠 壞坏 壘垒 壩坝 壯壮 夠够 夾夹 臺台 後后 裡里 麵面 髮发
衝冲 鬆松 鬍胡 乾干 蓋盖 盡尽 灘滩"""
_SIMPLIFIED = str.maketrans({pair[0]: pair[1] for pair in _PAIRS.split()})


def one_spelling(folded: str) -> str:
    """Case-folded words in one spelling, the same for British and American, traditional and simplified."""
    if folded.isascii():
        found = [_WORDS.get(word, word) for word in folded.split()]
        folded = " ".join(_one_form(word, len(found) == 1) for word in found)
        for pattern, to in _RULES:
            folded = pattern.sub(to, folded)
        return folded
    return folded.translate(_SIMPLIFIED)


def _one_form(word: str, alone: bool) -> str:
    """A word and its abbreviation in one form; beside no other word only days and months, since ``St`` may be much."""
    form = _ABBREVIATED.get(word, word)
    return word if alone and form not in _CALENDAR else form


_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae", "œ": "oe"})


def with_umlauts_spelled(folded: str) -> str:
    """Case-folded words as they stand where a keyboard has no umlauts: ``zuerich``."""
    return folded.translate(_UMLAUTS)


def without_accents(text: str) -> str:
    """Latin letters without their accents; other scripts stay, since a mark is another letter there."""
    pieces = unicodedata.normalize("NFD", text)
    kept = [
        one
        for index, one in enumerate(pieces)
        if not (
            unicodedata.combining(one)
            and index
            and unicodedata.name(pieces[index - 1], "").startswith(("LATIN", "COMB"))
        )
    ]
    return unicodedata.normalize("NFC", "".join(kept))
